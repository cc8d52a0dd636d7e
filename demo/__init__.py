"""How the demo checkpoint is drawn, trained, exported and scored. Start with README.md."""
