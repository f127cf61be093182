"""Templates and style of the report; a package, so that they are installed with it."""
