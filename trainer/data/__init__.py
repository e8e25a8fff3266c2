"""From a folder of pictures to batches of latents.

`folder.scan` finds the pictures and their captions, `views.views` says in which frames each is
trained, `batches.LatentDataset` encodes them once, and `batches.BatchOrder` says what comes when.
"""
