"""One module per scenario: `async def run(settings) -> Result`."""
