"""The face: a head made by code with the 52 ARKit shapes, written as glTF, drawn and plotted."""
