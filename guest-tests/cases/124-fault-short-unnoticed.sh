# SPDX-License-Identifier: Apache-2.0 OR MIT
# case: broken hardware, and the verifier catches it: half of each write is lost, and the device reports success
# device: --fault short,op=write,slot=0-31,status=ok
# check: fscrypt
# expect-wrong: these are zeros: never written
# wrong-share: 45-60
# stat: events.fault > 0
# stat: requests.failed == 0
# stat: keyslots.nokey == 0

broken_case per-file
