"""Python imports this by itself in every process that has this folder on its path."""

import browser_strikes

browser_strikes.prepare()
