"""From an answer to its worth: graded accuracies, text metrics, consistency of pairs."""
