"""The studies' old name; `sage.studies` replaces it."""
