"""The labelled world: people, animals and things in scenes, drawn with every answer known."""
