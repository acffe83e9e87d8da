"""`imgsynth plan`: which method for so many patients, by what was measured on phantoms, and the command to run it."""
