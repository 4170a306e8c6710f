"""From a reply to what it means: the official behaviours, each under its own name, and saner ones."""
