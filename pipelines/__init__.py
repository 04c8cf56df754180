"""KFP pipelines that are built from a recipe: train, data, retrain."""
