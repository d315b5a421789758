"""What all studies share: cells, judges, statistics, figures and tables."""
