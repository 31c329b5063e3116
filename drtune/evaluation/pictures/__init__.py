"""Pictures of a report: each function takes data and returns a figure; equal data give equal bytes."""
