"""What a run leaves behind, so that it can go on: folders, what is in them, and the way back."""
