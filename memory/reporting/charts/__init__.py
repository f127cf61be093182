"""Charts of the report, each a function from plain data to inline SVG."""
