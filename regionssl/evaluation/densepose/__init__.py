"""Dense pose: which part of a body's surface, and where on it, a pixel of a person shows."""
