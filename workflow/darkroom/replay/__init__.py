"""What made a picture: its settings read back from its metadata, whichever tool wrote them, for a render or a sheet.

Takes picture files of Darkroom and of other tools, exported sheets, and what is configured. Gives settings in Darkroom's names,
the models and files that they mean, the picture rendered again, and a list of everything that could not be used. Never guesses
a setting that a picture does not state, and takes no model or file for another one whose hash differs.
"""
