"""The tab "Explore": a grid over two settings, and one run step by step."""
