"""Prompt sheets: which pictures a run makes.

Takes a sheet's file and the configuration. Gives one RenderRequest, id and seed per picture.
Never reads a model, asks the network or renders.
"""
