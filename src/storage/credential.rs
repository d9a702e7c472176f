//! Sign-in with Entra.
