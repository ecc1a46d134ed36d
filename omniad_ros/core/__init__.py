"""What everything stands on: geometry, images, files, and what is said to the user. Imports nothing else of the package."""
