"""The viewer: a local page that shows the talking face, its sound, its curves and its times."""
