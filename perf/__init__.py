"""What serving costs, measured."""
