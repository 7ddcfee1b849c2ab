"""The labelled world: people in scenes, drawn with every answer known."""
