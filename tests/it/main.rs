//! One binary for every test that needs more than one module, so that the tree is linked once.

mod emulator;
mod registry;
