"""Labelled images: objects, class maps, image classes; their readers, checks and splits."""
