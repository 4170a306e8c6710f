"""From a command line to a finished run: compose a recipe, check it, hand it to the pipeline."""
