"""What is said of a clip set beside its manifest: data card, and an HTML page with pictures and histograms."""
