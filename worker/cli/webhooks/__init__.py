"""`stockpot webhooks …`.

endpoints  `stockpot webhooks endpoints`, `add`, `update`, `test`, `enable`, `disable` and `delete`
events     `stockpot webhooks events`, `show`, `dead` and `replay`
group      `stockpot webhooks`
listen     `stockpot webhooks listen`: a receiver on this machine, for development
reach      A URL to which nothing can be delivered is warned of when it is given
secrets    `stockpot webhooks rotate`, `secret` and `reseal`
"""
