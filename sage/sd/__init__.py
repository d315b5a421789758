"""The edge to diffusers: the pipeline and what it is made of. Imports the core."""
