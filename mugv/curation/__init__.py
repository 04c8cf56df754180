"""Raw video to clips: sources and captions, shots, scores, filters, duplicates, split."""
