"""Motion that a face can wear: FLAME's numbers to vertices, vertices to ARKit's 52 shapes."""
