"""What a run leaves to look at: pictures with their metadata, contact sheets, the gallery, the manifest."""
