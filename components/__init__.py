"""KFP components, one folder each: component.py (thin), metadata.yaml, README.md (generated)."""
