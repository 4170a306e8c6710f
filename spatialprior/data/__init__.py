"""Datasets: posed sequences in, clips out."""
