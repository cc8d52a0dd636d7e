"""Prompt sheets: which pictures a run makes.

Takes a sheet's file and the configuration. Gives one PlannedPicture (id, seed, RenderRequest) for each picture.
Never reads a model, asks the network or renders.
"""
