"""The path of a frame: localize, reference view, detect, evidence, tracks; and the session of one robot around it."""
