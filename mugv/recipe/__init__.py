"""The recipe: one YAML file describes one whole run. Strict, frozen, with a digest."""

from mugv.recipe.load import digest, load_recipe, recipe_from_json, recipe_to_json
from mugv.recipe.schema import Recipe

__all__ = ["Recipe", "digest", "load_recipe", "recipe_from_json", "recipe_to_json"]
