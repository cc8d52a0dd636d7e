"""Scores of finished pictures by models that the configuration names: CLIP, and heads on CLIP's image embeddings.

Takes fetched safetensors files and a picture. Gives numbers, the same ones on each machine's CPU. Never renders, changes a
picture, or brings a model of its own.
"""
