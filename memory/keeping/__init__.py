"""Keeping: what may go because nothing needs it any more, and experiences on their way out of a memory and into one."""
