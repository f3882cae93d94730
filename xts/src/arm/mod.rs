// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Kernels for 64-bit Arm.

pub(super) mod armv8;
