"""A lower step that can be taken again: parameters, buffers, random numbers."""
