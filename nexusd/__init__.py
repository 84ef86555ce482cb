"""nexusd: the long-term memory of a home AI system. One daemon owns every byte."""

__version__ = "0.1.0"
