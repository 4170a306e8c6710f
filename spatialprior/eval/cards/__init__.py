"""Result cards: one file a score that says all behind it, and can be recomputed from the stored replies."""
