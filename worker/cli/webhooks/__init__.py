"""`stockpot webhooks …`.

endpoints  `stockpot webhooks endpoints`, `add`, `update`, `test`, `enable`, `disable` and `delete`
events     `stockpot webhooks events`, `show`, `dead` and `replay`
group      `stockpot webhooks`
listen     `stockpot webhooks listen`: a receiver on this machine, for development
secrets    `stockpot webhooks rotate`, `secret` and `reseal`
"""
