"""Pure tensor maths: attention maps, masks, schedules, losses, filters, noise."""
