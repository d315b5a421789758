"""How the page is served: its own lanes, bounds, errors, logs, files and headers."""
