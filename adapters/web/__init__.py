"""What the adapters that speak HTTP have in common."""
