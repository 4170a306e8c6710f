"""A run told to a person: ``report.json`` for programs, ``report.html`` and a short table for people."""
