"""The process `statesync serve`: metrics and probes, and the operator's page."""
