"""From a float32 graph to int8 candidates: calibrate, rank layers by what they lose, write QDQ."""
