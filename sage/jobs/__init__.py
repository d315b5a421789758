"""What a request becomes: settings, models, plans with their cost, comparisons, grids."""
