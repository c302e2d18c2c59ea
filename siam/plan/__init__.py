"""Plans: settings that fit the images, the machine and the time."""
