"""`erclip plan`: what a recipe will need per process, and what makes it fit."""
